"""`icmformer try`: a page in the browser to click on photos with, and the small server behind it."""
