"""The role `web`: is it alive, is it ready, and a page to look at."""
