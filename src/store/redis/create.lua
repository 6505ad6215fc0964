#!lua
-- Makes a registry where there is none. What is there already is left as it is.
--
-- KEYS: unfinished, those of a commit (meta first). ARGV: schema, epoch.

local UNFINISHED, META = KEYS[1], KEYS[2]

if redis.call('EXISTS', META) == 1 then
  return { 'exists' }
end
if redis.call('EXISTS', UNFINISHED) == 1 then
  return { 'unfinished' }
end
for position = 3, #KEYS do
  if redis.call('EXISTS', KEYS[position]) == 1 then
    return { 'foreign', KEYS[position] }
  end
end
redis.call('HSET', META, 'schema', ARGV[1], 'epoch', ARGV[2], 'revision', '0', 'checksum', '0000000000000000',
  'log_changes', '0', 'head', '00000000000000000000000000000000', 'settled', '0')
return { 'created' }
