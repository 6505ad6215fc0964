#!lua flags=allow-oom
-- Takes recalls back, and counts them: how many are there and how many were taken back together say how many there ever
-- were, which moves whenever one is added.
--
-- KEYS: meta, recalled, recall_log. ARGV: digests.

local META, RECALLED, LIST = unpack(KEYS)

-- What was taken back and is not counted would have others pass unnoticed.
for _, needed in ipairs({
  { 'EXISTS', META }, { 'HINCRBY', META }, { 'SREM', RECALLED }, { 'SCARD', RECALLED }, { 'DEL', LIST },
}) do
  if not redis.acl_check_cmd(unpack(needed)) then
    return { 'forbidden', table.concat(needed, ' ') }
  end
end
if redis.call('EXISTS', META) == 1 then
  redis.call('HINCRBY', META, 'settled', redis.call('SREM', RECALLED, unpack(ARGV)))
  if redis.call('SCARD', RECALLED) == 0 then
    redis.call('DEL', LIST)
  end
end
return { 'settled' }
