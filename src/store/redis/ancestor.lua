#!lua flags=no-writes
-- The latest of some places that the change log shows, so that little is carried whatever the entries hold.
--
-- KEYS: log. ARGV: a revision, and one after the other the heads there, at the revision before, and so on.

local revision, heads = tonumber(ARGV[1]), ARGV[2]

for from = 1, #heads, 32 do
  if revision < 0 then break end
  local id = string.format('%.0f-0', revision)
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  local fields = entry and entry[2] or {}
  for field = 1, #fields, 2 do
    if fields[field] == 'h' and fields[field + 1] == string.sub(heads, from, from + 31) then
      return revision
    end
  end
  revision = revision - 1
end
return false
