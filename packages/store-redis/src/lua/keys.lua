-- All API keys of one instant. Answers the version, and the keys as they are kept.
return {field(P .. 'meta', 'keys') or '', call('HVALS', P .. 'keys')}
