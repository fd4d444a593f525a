"""What Redis runs as one step. Its own clock counts, so that the clocks of the workers do not matter.

Times are whole microseconds since 1970, which doubles hold exactly, as they do every quotient that is rounded down.
"""

from mlguard.store import PARTS

#: What HIT and SETTLE share: one caller's counters for all windows of a bucket, as in ``mlguard._counters``. The value
#: holds of each window the units that count and then, if it slides, part, units, part, units..., oldest first; if it is
#: fixed, its number; if it is a bucket that leaks, when it had that level.
#:
#: A width is that of a part of a sliding window, else that of the window, in microseconds.
_COUNTERS = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local stored = redis.call('GET', KEYS[1])
local counters = stored and cmsgpack.unpack(stored) or {}
local floor, ceil, max = math.floor, math.ceil, math.max

local function move(window, limit, width, kind)
  local counter = counters[window]
  if kind == 'sliding' then
    counter = counter or {0}
    local first = floor(now / width) - PARTS
    while counter[2] and counter[2] < first do
      counter[1] = counter[1] - counter[3]
      table.remove(counter, 2)
      table.remove(counter, 2)
    end
  elseif kind == 'fixed' then
    local number = floor(now / width)
    if not counter or number > counter[2] then counter = {0, number} end
  else
    counter = counter or {0, now}
    if now > counter[2] then counter = {max(0, counter[1] - (now - counter[2]) * limit / width), now} end
  end
  counters[window] = counter
  return counter
end

local function add(counter, width, kind, units)
  counter[1] = counter[1] + units
  if kind ~= 'sliding' then return end
  local last, current = #counter, floor(now / width)
  if last > 1 and counter[last - 1] >= current then  -- >=: a clock that went backwards
    counter[last] = counter[last] + units
  else
    counter[last + 1], counter[last + 2] = current, units
  end
end
""".replace("PARTS", str(PARTS))

#: KEYS: the counters. ARGV: cost, milliseconds to keep them, then of each window its limit, width and kind.
#: Returns, as doubles in one string, which is read much faster than a list: admitted, microseconds to wait (-1: for
#: ever), the time, then of each window units used and microseconds until reset.
HIT = (
    _COUNTERS
    + """
local cost = tonumber(ARGV[1])
local answer = {1, 0, now}

local function wait(counter, limit, width, kind)
  if cost > limit then return -1 end
  if kind == 'fixed' then return (counter[2] + 1) * width - now end
  local excess = counter[1] + cost - limit
  if kind == 'gcra' then return ceil(excess * width / limit) end
  local oldest = 0
  repeat
    oldest = oldest + 2
    excess = excess - counter[oldest + 1]
  until excess <= 0
  return (counter[oldest] + PARTS + 1) * width - now
end

local function reset(counter, limit, width, kind)
  if counter[1] <= 0 then return 0 end
  if kind == 'sliding' then return (counter[2] + PARTS + 1) * width - now end
  if kind == 'fixed' then return (counter[2] + 1) * width - now end
  return ceil((counter[1] - ceil(counter[1]) + 1) * width / limit)
end

for place = 3, #ARGV, 3 do
  local limit, width, kind = tonumber(ARGV[place]), tonumber(ARGV[place + 1]), ARGV[place + 2]
  local counter = move(place / 3, limit, width, kind)
  if counter[1] + cost > limit then
    local time = wait(counter, limit, width, kind)
    answer[1] = 0
    answer[2] = (time < 0 or answer[2] < 0) and -1 or max(answer[2], time)
  end
end

local counts = answer[1] == 1 and cost > 0
for place = 3, #ARGV, 3 do
  local limit, width, kind = tonumber(ARGV[place]), tonumber(ARGV[place + 1]), ARGV[place + 2]
  local counter = counters[place / 3]
  if counts then add(counter, width, kind, cost) end
  answer[#answer + 1] = ceil(counter[1])
  answer[#answer + 1] = reset(counter, limit, width, kind)
end
if counts then redis.call('SET', KEYS[1], cmsgpack.pack(counters), 'PX', ARGV[2]) end
return struct.pack('<' .. string.rep('d', #answer), unpack(answer))
""".replace("PARTS", str(PARTS))
)

#: KEYS: the counters. ARGV: units (below 0: given back), milliseconds to keep them, then of each window its limit,
#: width and kind, and at last the time of the hit.
SETTLE = (
    _COUNTERS
    + """
local units, at = tonumber(ARGV[1]), tonumber(ARGV[#ARGV])

local function give_back(counter, limit, width, kind)
  if kind == 'gcra' then  -- part of them may have leaked since
    counter[1] = max(0, counter[1] - max(0, -units - max(0, counter[2] - at) * limit / width))
  elseif kind == 'fixed' then
    if floor(at / width) == counter[2] then counter[1] = max(0, counter[1] + units) end
  else
    for i = 2, #counter, 2 do
      if counter[i] == floor(at / width) then
        local back = math.min(-units, counter[i + 1])
        counter[1], counter[i + 1] = counter[1] - back, counter[i + 1] - back
        if counter[i + 1] == 0 then
          table.remove(counter, i)
          table.remove(counter, i)
        end
        return
      end
    end
  end
end

for place = 3, #ARGV - 1, 3 do
  local limit, width, kind = tonumber(ARGV[place]), tonumber(ARGV[place + 1]), ARGV[place + 2]
  local counter = move(place / 3, limit, width, kind)
  if units > 0 then add(counter, width, kind, units) else give_back(counter, limit, width, kind) end
end
if units > 0 then
  redis.call('SET', KEYS[1], cmsgpack.pack(counters), 'PX', ARGV[2])
elseif stored then
  redis.call('SET', KEYS[1], cmsgpack.pack(counters), 'KEEPTTL')
end
return 0
"""
)

#: KEYS: a budget. ARGV: units (below 0: given back), milliseconds to keep it, and the limit; without it, there is none.
#: Returns: admitted, units used.
SPEND = """
local used, units = tonumber(redis.call('GET', KEYS[1]) or 0), tonumber(ARGV[1])
if ARGV[3] and units >= 0 and used + units > tonumber(ARGV[3]) then return {0, used} end
if units ~= 0 then
  used = used + units
  redis.call('SET', KEYS[1], string.format('%.0f', used), 'PX', ARGV[2])
end
return {1, used}
"""

#: The places that holders have, a sorted set by the time when each ends by itself.
#:
#: KEYS: the places. ARGV: the holder, milliseconds to hold it, how many places there are.
#: Returns: 1 (held) or 0, and microseconds until the first place is free by itself.
TAKE_LEASE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local later = '(' .. string.format('%.0f', now)
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
local held = ends and tonumber(ends) > now
if not held and redis.call('ZCOUNT', KEYS[1], later, '+inf') >= tonumber(ARGV[3]) then
  return {0, redis.call('ZRANGEBYSCORE', KEYS[1], later, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2] - now}
end
-- Added before others are removed: only the first write of a script is refused where memory is full.
redis.call('ZADD', KEYS[1], now + ARGV[2] * 1000, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('PTTL', KEYS[1]) <= tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2] + 1) end
return {1, 0}
"""

#: One owner's nonces, a sorted set by the time of expiry.
#:
#: KEYS: the owner's nonces. ARGV: nonce, milliseconds to keep it, how many there may be, how many expired ones to drop.
#: Returns: 1 (new), 0 (known) or -1 (no room), and microseconds until the oldest expires.
ADD_NONCE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
if known and tonumber(known) > now then return {0, 0} end
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[4])) do
  redis.call('ZREM', KEYS[1], old)
end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
  return {-1, redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2] - now}
end
redis.call('ZADD', KEYS[1], now + ARGV[2] * 1000, ARGV[1])
if redis.call('PTTL', KEYS[1]) <= tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2] + 1) end
return {1, 0}
"""

#: KEYS: a value. ARGV: the new one, milliseconds to keep it, and the one that must be there; without it, none may be.
#: Returns: 1 if it was kept.
SWAP = """
if redis.call('GET', KEYS[1]) ~= (ARGV[3] or false) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

#: What is known of a caller that is watched, as in ``mlguard._watched``: ten doubles (queries, when the verdict ends,
#: its votes, and up to seven sums), then marks, 32 bits each: 16 of the mark, and 16 of the query's number, and then
#: the first marks of queries, 16 bits each.
#:
#: KEYS: that. ARGV: marks to share, votes to get, microseconds to hold, milliseconds to keep it, 1 to forget it first,
#: how many sums, how many slots, their limits, their kinds; and then the queries, packed.
#: Returns: what each query with marks is, how many there were, votes, microseconds that the verdict holds, the change,
#: and the evidence of each kind, in millionths.
WATCH = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local shared, needed, hold, sums = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[6])
local first_of_whole = 40 + 2 * ARGV[7]
if ARGV[5] == '1' then redis.call('DEL', KEYS[1]) end
local stored = redis.call('GETRANGE', KEYS[1], 0, 79)
local known = #stored == 80 and {struct.unpack('<dddddddddd', stored)} or {0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
local count, ends, votes, change, seen = known[1], known[2], known[3], 0, {}

if ends > 0 and now >= ends then
  ends, votes, change = 0, 0, -1
  for i = 4, 10 do known[i] = 0 end
end

local function places(query, first, n)
  local slots, tags, at = {}, {}, first
  for i = 1, n do
    slots[i], tags[i], at = struct.unpack('<I4I4', query, at)
  end
  return slots, tags
end

local function see(slots, tags, n)
  local whole = '#' .. (first_of_whole + slots[1])
  if redis.call('BITFIELD', KEYS[1], 'SET', 'u16', whole, tags[1])[1] == tags[1] then return 2 end
  count = count + 1
  local number = count % 65535 + 1
  local command = {}
  for i = 2, n do
    command[#command + 1] = 'SET'
    command[#command + 1] = 'u32'
    command[#command + 1] = '#' .. (20 + slots[i])
    command[#command + 1] = tags[i] * 65536 + number
  end
  if n == 1 then return 0 end
  local before, in_common, most = redis.call('BITFIELD', KEYS[1], unpack(command)), {}, 0
  for i = 2, n do
    if math.floor(before[i - 1] / 65536) == tags[i] then
      local other = before[i - 1] % 65536
      if other ~= number then
        in_common[other] = (in_common[other] or 0) + 1
        most = math.max(most, in_common[other])
      end
    end
  end
  return most >= shared and 1 or 0
end

local function judge()
  local voting, bits, n = {}, 0, 0
  for i = 1, sums do
    local kind = tonumber(ARGV[7 + sums + i])
    if known[3 + i] >= tonumber(ARGV[7 + i]) and not voting[kind] then
      voting[kind] = true
      bits, n = bits + 2 ^ kind, n + 1
    end
  end
  if n >= needed then
    if ends == 0 then change = 1 end
    ends, votes = now + hold, bits
  end
  return bits
end

local voting = 0
for place = 8 + 2 * sums, #ARGV do
  local query = ARGV[place]
  local n, at = struct.unpack('<H', query)
  local was = 0
  if n > 0 then
    local slots, tags = places(query, at, n)
    was = see(slots, tags, n)
    seen[#seen + 1] = was
  end
  if was < 2 and sums > 0 then
    at = 3 + 8 * n + (was == 1 and 0 or 8 * sums)
    for i = 1, sums do
      local step
      step, at = struct.unpack('<d', query, at)
      known[3 + i] = math.min(2 * ARGV[7 + i], math.max(0, known[3 + i] + step))
    end
    voting = judge()
  end
end
if ends > 0 then voting = votes end

if #ARGV > 7 + 2 * sums or change ~= 0 then
  redis.call('SETRANGE', KEYS[1], 0, struct.pack('<dddddddddd', count, ends, votes, unpack(known, 4, 10)))
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end

local evidence = {}
for i = 1, sums do
  local kind = ARGV[7 + sums + i] + 1
  for missing = #evidence + 1, kind do evidence[missing] = 0 end
  evidence[kind] = math.max(evidence[kind], math.floor(1000000 * known[3 + i] / ARGV[7 + i]))
end
return {seen, count, voting, math.max(0, ends - now), change, evidence}
"""
