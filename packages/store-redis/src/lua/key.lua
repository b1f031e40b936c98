-- One API key. ARGV: its id. Answers the version, and the key or nothing.
return {field(P .. 'meta', 'keys') or '', field(P .. 'keys', ARGV[2]) or false}
