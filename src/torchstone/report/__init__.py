"""Results for people: terminal tables, pictures, HTML pages, JUnit files. Callers import from the files."""
