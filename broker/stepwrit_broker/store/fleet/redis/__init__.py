"""The fleet's swift engine on Redis."""

from stepwrit_broker.store.fleet.redis.engine import RedisSwift

__all__ = ["RedisSwift"]
