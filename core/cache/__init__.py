"""The read cache in Redis: entities by identity and by look-up key, never wrong, at worst as slow as the store."""
