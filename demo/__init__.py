"""`make demo`: a real Label Studio with the backend connected and photos to click on."""
