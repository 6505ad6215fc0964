#!lua flags=allow-oom
-- Makes a store of the schema before one of this schema. Its head begins with what it knows of its past, so that replicas
-- go on from where they history.
--
-- KEYS: meta. ARGV: the schema before, this schema.

local META, before, this = KEYS[1], ARGV[1], ARGV[2]

local meta = redis.call('HMGET', META, 'schema', 'revision', 'checksum')
if not meta[1] then
  return { 'absent' }
end
if meta[1] ~= before then
  return meta[1] == this and { 'migrated' } or { 'schema', meta[1] }
end
redis.call('HSET', META, 'schema', this, 'head', string.format('%016x', tonumber(meta[2])) .. meta[3], 'settled', '0')
return { 'migrated' }
