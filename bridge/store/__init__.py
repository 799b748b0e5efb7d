"""What is written down: the only room that speaks SQL. Functions take a connection and run inside one transaction."""
