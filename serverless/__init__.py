"""CVAT's interactor: a Nuclio function, a local server for it, and an agent function."""
