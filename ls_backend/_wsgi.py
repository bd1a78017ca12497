"""`gunicorn icmformer.applications.ls_backend._wsgi:app`, and what `label-studio-ml start ls_backend` runs as a script.

`icmformer serve label-studio` goes here too, and sets gunicorn up so that the port opens once the model is loaded.
"""

from __future__ import annotations

import sys

from icmformer.applications.ls_backend import startup  # in full: a script has no package

if __name__ == "__main__":
    startup.main(sys.argv[1:])
else:
    app = startup.application()
