"""The gate: who may certify, what they must see, and what becomes of what they cannot prove."""
