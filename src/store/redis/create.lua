#!lua
-- Makes a registry where there is none. What is there already is left as it is.
--
-- KEYS: those of a commit, meta first. ARGV: schema, epoch.

if redis.call('EXISTS', KEYS[1]) == 1 then
  return { 'exists' }
end
for position = 2, #KEYS do
  if redis.call('EXISTS', KEYS[position]) == 1 then
    return { 'foreign', KEYS[position] }
  end
end
redis.call('HSET', KEYS[1], 'schema', ARGV[1], 'epoch', ARGV[2], 'revision', '0', 'checksum', '0000000000000000',
  'log_changes', '0', 'head', '00000000000000000000000000000000', 'settled', '0')
return { 'created' }
