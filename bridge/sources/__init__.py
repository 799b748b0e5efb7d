"""Sources of presence: `protocol` is what a kind must provide, `kinds` the table of kinds, and each has a folder."""
