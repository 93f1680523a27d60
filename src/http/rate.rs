//! How many WHIP requests a client may make a second (RFC 9725 section 5): one bucket of tokens for each client
//! address and kind of request. Pure; the time is passed in.
//!
//! Memory is bounded: when too many addresses are known, those that have been quiet are forgotten, and if none has, the
//! rest shares one bucket.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Addresses remembered.
const MAX_CLIENTS: usize = 4_096;

/// What is counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// New publications.
    Post,
    /// Changes to one.
    Patch,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// The buckets of all clients.
#[derive(Debug)]
pub(super) struct RateLimit {
    posts_per_second: u32,
    patches_per_second: u32,
    buckets: Mutex<HashMap<(IpAddr, Kind), Bucket>>,
}

impl RateLimit {
    pub(super) fn new(posts_per_second: u32, patches_per_second: u32) -> Self {
        Self {
            posts_per_second,
            patches_per_second,
            buckets: Mutex::default(),
        }
    }

    /// Takes one token of a client; if there is none, tells when there will be one.
    pub(super) fn take(&self, client: IpAddr, kind: Kind, now: Instant) -> Result<(), Duration> {
        let rate = f64::from(match kind {
            Kind::Post => self.posts_per_second,
            Kind::Patch => self.patches_per_second,
        });
        let burst = rate * 2.0;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (network(client), kind);
        if !buckets.contains_key(&key) && buckets.len() >= MAX_CLIENTS {
            // Every bucket is full again after two seconds.
            buckets.retain(|_, bucket| now.duration_since(bucket.at) < Duration::from_secs(2));
            if buckets.len() >= MAX_CLIENTS {
                key = (IpAddr::V6(Ipv6Addr::UNSPECIFIED), kind);
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket {
            tokens: burst,
            at: now,
        });
        let refill = now.saturating_duration_since(bucket.at).as_secs_f64() * rate;
        bucket.tokens = (bucket.tokens + refill).min(burst);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - bucket.tokens) / rate))
        }
    }
}

/// What one client has: an IPv4 address, or the /64 that an IPv6 host chooses its addresses from.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let limit = RateLimit::new(10, 50);
        let now = Instant::now();
        for _ in 0..20 {
            limit.take(ip("192.0.2.1"), Kind::Post, now).unwrap();
        }
        assert_eq!(
            limit.take(ip("192.0.2.1"), Kind::Post, now),
            Err(Duration::from_millis(100))
        );
        limit.take(ip("192.0.2.1"), Kind::Patch, now).unwrap();
        limit.take(ip("192.0.2.2"), Kind::Post, now).unwrap();
        let later = now + Duration::from_millis(100);
        limit.take(ip("192.0.2.1"), Kind::Post, later).unwrap();
        assert!(limit.take(ip("192.0.2.1"), Kind::Post, later).is_err());
    }

    #[test]
    fn a_host_with_many_ipv6_addresses_is_one_client() {
        let limit = RateLimit::new(1, 1);
        let now = Instant::now();
        limit.take(ip("2001:db8::1"), Kind::Post, now).unwrap();
        limit.take(ip("2001:db8::2"), Kind::Post, now).unwrap();
        assert!(limit.take(ip("2001:db8::3"), Kind::Post, now).is_err());
        limit.take(ip("2001:db8:0:1::1"), Kind::Post, now).unwrap();
    }

    #[test]
    fn memory_is_bounded_and_the_quiet_are_forgotten() {
        let limit = RateLimit::new(1, 1);
        let now = Instant::now();
        let flood = |now| {
            let mut refused = 0;
            for n in 0..10_000_u32 {
                refused += usize::from(limit.take(IpAddr::V4(n.into()), Kind::Post, now).is_err());
            }
            assert!(limit.buckets.lock().unwrap().len() <= MAX_CLIENTS + 1);
            refused
        };
        assert!(flood(now) > 5_000);
        limit
            .take(ip("192.0.2.1"), Kind::Post, now + Duration::from_secs(3))
            .unwrap();
        assert!(limit.buckets.lock().unwrap().len() < 3);
    }
}
