-- Does nothing, but only where the server takes writes.
return 'pong'
