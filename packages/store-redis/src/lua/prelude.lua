-- What every script begins with: the shard's prefix, the time, and small helpers. KEYS[1] is the prefix `P` of the shard; ARGV[1]
-- is the time in milliseconds, or empty for the server's. A script's own arguments begin at ARGV[2].
local P = KEYS[1]
local call = redis.call
local now
if ARGV[1] == '' then
  local t = call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
else
  now = tonumber(ARGV[1])
end

-- A number as text: never in exponents.
local function num(n)
  return string.format('%.0f', n)
end

-- A number that orders as text. Two halves: `%x` takes no more than 32 bits everywhere.
local function hex16(n)
  return string.format('%08x%08x', math.floor(n / 4294967296), n % 4294967296)
end

-- A field of a hash; nil where there is none.
local function field(key, name)
  return call('HGET', key, name) or nil
end

-- A field of a hash as a number; 0 where there is none.
local function numeric(key, name)
  return tonumber(call('HGET', key, name) or 0)
end

-- The number of a counter after the last: numbers ascend, and begin with the time, so that "created after" is a range and those of
-- several shards have an order.
local function number_after(last)
  return math.max(last + 1, now * 2048)
end

-- The next number of a counter.
local function next_number(counter)
  local number = number_after(numeric(P .. 'meta', counter))
  call('HSET', P .. 'meta', counter, num(number))
  return number
end

local function next_row()
  return next_number('row')
end
