"""Events: their types, bodies, formats and numbering, and the subscriptions to them."""
