"""Tasks as Gymnasium environments with a uniform observation format, action range and end-of-episode semantics."""
