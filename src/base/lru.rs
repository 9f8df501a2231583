//! A cache with a budget in bytes: what was used longest ago goes first.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values shared by `Arc`, each with its weight in bytes. The latest entry is kept even where it alone
/// is heavier than the whole budget, so that who goes on asking for it does not have it made each time;
/// the next one takes its place.
#[derive(Debug)]
pub struct Lru<K, V> {
    inner: Mutex<Inner<K, V>>,
    budget: usize,
}

#[derive(Debug)]
struct Inner<K, V> {
    entries: HashMap<K, Entry<V>>,
    clock: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    bytes: usize,
    used: u64,
}

impl<K: Eq + Hash + Clone, V> Lru<K, V> {
    /// An empty cache that keeps at most `budget` bytes, or one entry.
    pub fn new(budget: usize) -> Self {
        let inner = Inner { entries: HashMap::new(), clock: 0, bytes: 0 };
        Self { inner: Mutex::new(inner), budget }
    }

    /// The value of `key`, made by `make` (value and its bytes) if it is not there. Two threads that
    /// miss at the same time may both make it; the cache is not locked meanwhile.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get_or_make<E>(
        &self,
        key: &K,
        make: impl FnOnce() -> Result<(V, usize), E>,
    ) -> Result<Arc<V>, E> {
        if let Some(value) = self.lock().touch(key) {
            return Ok(value);
        }
        let (value, bytes) = make()?;
        let value = Arc::new(value);
        self.lock().insert(key.clone(), Arc::clone(&value), bytes, self.budget);
        Ok(value)
    }

    /// Forgets the entries for which `keep` is false.
    pub fn retain(&self, mut keep: impl FnMut(&K) -> bool) {
        let mut inner = self.lock();
        inner.entries.retain(|key, _| keep(key));
        inner.bytes = inner.entries.values().map(|entry| entry.bytes).sum();
    }

    /// Bytes kept now.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone, V> Inner<K, V> {
    fn touch(&mut self, key: &K) -> Option<Arc<V>> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.clock;
        Some(Arc::clone(&entry.value))
    }

    fn insert(&mut self, key: K, value: Arc<V>, bytes: usize, budget: usize) {
        if let Some(old) = self.entries.remove(&key) {
            self.bytes -= old.bytes;
        }
        while self.bytes + bytes > budget {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { break };
            self.bytes -= self.entries.remove(&key).map_or(0, |entry| entry.bytes);
        }
        self.clock += 1;
        self.bytes += bytes;
        self.entries.insert(key, Entry { value, bytes, used: self.clock });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &Lru<&'static str, u32>, key: &'static str, bytes: usize) -> bool {
        let mut made = false;
        let make = || {
            made = true;
            Ok::<_, ()>((0, bytes))
        };
        cache.get_or_make(&key, make).unwrap();
        made
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let cache = Lru::new(20);
        put(&cache, "a", 10);
        put(&cache, "b", 10);
        put(&cache, "a", 10);
        put(&cache, "c", 10);
        assert!(!put(&cache, "a", 10), "a was used after b");
        assert!(put(&cache, "b", 10), "b had to go");
        assert_eq!(cache.bytes(), 20);
    }

    #[test]
    fn an_entry_over_the_budget_is_kept_alone_and_until_the_next_one() {
        let cache = Lru::new(5);
        put(&cache, "a", 2);
        assert!(put(&cache, "b", 6));
        assert!(!put(&cache, "b", 6));
        assert_eq!(cache.bytes(), 6);
        assert!(put(&cache, "a", 2), "it had to go");
        assert_eq!(cache.bytes(), 2);
    }
}
