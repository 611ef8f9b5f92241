"""`doppel calibrate`: how far an operator may go before its outputs lose their labels."""
