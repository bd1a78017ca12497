"""Reading images with object masks, and picking the object that a training sample asks for."""
