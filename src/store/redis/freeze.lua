#!lua flags=allow-oom
-- Has commits refused, or taken again.
--
-- KEYS: meta. ARGV: the reason; none to lift it.

for _, command in ipairs({ 'EXISTS', 'HSET', 'HDEL' }) do
  if not redis.acl_check_cmd(command, KEYS[1]) then
    return { 'forbidden', command .. ' ' .. KEYS[1] }
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return { 'absent' }
end
if ARGV[1] then
  redis.call('HSET', KEYS[1], 'frozen', ARGV[1])
else
  redis.call('HDEL', KEYS[1], 'frozen')
end
return { 'done' }
