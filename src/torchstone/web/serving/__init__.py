"""A bundle over HTTP. Lies in every bundle too, as the package `serving`: `python -m serving`.

    config.py     every limit, with its unit
    messages.py   what is asked and answered, as the OpenAPI schema shows it
    batching.py   requests wait for each other and go through the model together
    app.py        the routes
    gate.py       in front of them: token, limits, request ids, logs, counts, drain
    server.py     verify the bundle, listen, drain on SIGTERM
    container.py  the Dockerfile (only here)

Start at `server.py`. All but `container.py` import nothing of torchstone but the bundle's own programs.
"""
