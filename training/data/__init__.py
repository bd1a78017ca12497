"""Reading photos with object masks, and making training samples of them."""
