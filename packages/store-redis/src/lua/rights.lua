-- Whether this user may do all that scripts and waiting take. A script that is refused in its middle would have done half of what it
-- was to do, so that is asked beforehand. Answers the first command that is refused, or nothing.
-- Each is asked with as many arguments as it needs, as reading and writing a key of the store.
local key, channel = P .. 'meta', P .. 'x'
local COMMANDS = {
  {'BLPOP', key, '1'},
  {'DEL', key},
  {'EXISTS', key},
  {'GET', key},
  {'HDEL', key, 'f'},
  {'HEXISTS', key, 'f'},
  {'HGET', key, 'f'},
  {'HINCRBY', key, 'f', '1'},
  {'HLEN', key},
  {'HMGET', key, 'f'},
  {'HSET', key, 'f', 'v'},
  {'HSETNX', key, 'f', 'v'},
  {'HVALS', key},
  {'INFO', 'server', 'replication'},
  {'LINDEX', key, '0'},
  {'LLEN', key},
  {'LPUSH', key, 'v'},
  {'LRANGE', key, '0', '1'},
  {'LREM', key, '1', 'v'},
  {'PEXPIRE', key, '1'},
  {'PUBLISH', channel, 'm'},
  {'RPUSH', key, 'v'},
  {'SADD', key, 'm'},
  {'SCARD', key},
  {'SET', key, 'v'},
  {'SRANDMEMBER', key},
  {'SREM', key, 'm'},
  {'SUBSCRIBE', channel},
  {'TIME'},
  {'UNLINK', key},
  {'UNSUBSCRIBE', channel},
  {'XACK', key, 'g', '1-0'},
  {'XADD', key, '*', 'f', 'v'},
  {'XDEL', key, '1-0'},
  {'XGROUP', 'CREATE', key, 'g', '0'},
  {'XGROUP', 'DELCONSUMER', key, 'g', 'c'},
  {'XGROUP', 'SETID', key, 'g', '0'},
  {'XINFO', 'CONSUMERS', key, 'g'},
  {'XINFO', 'GROUPS', key},
  {'XINFO', 'STREAM', key},
  {'XPENDING', key, 'g'},
  {'XRANGE', key, '-', '+'},
  {'XREADGROUP', 'GROUP', 'g', 'c', 'STREAMS', key, '>'},
  {'XREVRANGE', key, '+', '-'},
  {'XTRIM', key, 'MINID', '1'},
  {'ZADD', key, '1', 'm'},
  {'ZCARD', key},
  {'ZCOUNT', key, '0', '1'},
  {'ZRANGE', key, '0', '1'},
  {'ZRANGEBYSCORE', key, '0', '1'},
  {'ZREM', key, 'm'},
  {'ZREMRANGEBYSCORE', key, '0', '1'},
  {'ZREVRANGE', key, '0', '1'},
  {'ZREVRANGEBYLEX', key, '+', '-'},
  {'ZREVRANGEBYSCORE', key, '1', '0'},
  {'ZSCORE', key, 'm'},
}
for _, command in ipairs(COMMANDS) do
  if not redis.acl_check_cmd(unpack(command)) then
    local sub = command[1] == 'XGROUP' or command[1] == 'XINFO'
    return sub and command[1] .. ' ' .. command[2] or command[1]
  end
end
return nil
