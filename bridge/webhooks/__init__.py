"""Webhooks going out: signed (signing), judged (delivery), aimed only where allowed (egress), posted (client)."""
