"""What speaks the languages of others for the daemon: programs beside it, and its clients like any other."""
