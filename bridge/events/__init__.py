"""What is told: the types of events, what each says, the formats it can be said in, and the chain of a room's log."""
