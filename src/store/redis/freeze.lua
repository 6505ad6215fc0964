#!lua flags=allow-oom
-- Has commits refused, or taken again. Done twice, it finds that it was done.
--
-- KEYS: meta. ARGV: the reason, empty to lift it; only if this is the reason now.

for _, command in ipairs({ 'EXISTS', 'HMGET', 'HSET', 'HDEL' }) do
  if not redis.acl_check_cmd(command, KEYS[1]) then
    return { 'forbidden', command .. ' ' .. KEYS[1] }
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return { 'absent' }
end
local frozen = redis.call('HMGET', KEYS[1], 'frozen')[1] or ''
if ARGV[2] and frozen ~= ARGV[2] and frozen ~= ARGV[1] then
  return { 'other' }
end
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], 'frozen', ARGV[1])
else
  redis.call('HDEL', KEYS[1], 'frozen')
end
return { 'done' }
