//! Atomics that let the simulator's other actors run before each access.

use super::actor::step;
use std::sync::atomic::{self, Ordering};

macro_rules! atomic {
    ($name:ident, $word:ty) => {
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(atomic::$name);

        #[allow(dead_code, reason = "each of the two has the calls of both")]
        impl $name {
            pub const fn new(word: $word) -> Self {
                Self(atomic::$name::new(word))
            }

            pub fn load(&self, order: Ordering) -> $word {
                step();
                self.0.load(order)
            }

            pub fn store(&self, word: $word, order: Ordering) {
                step();
                self.0.store(word, order);
            }

            /// A look that is no step of anybody's.
            pub fn is(&self, word: $word) -> bool {
                self.0.load(Ordering::Relaxed) == word
            }

            pub fn swap(&self, word: $word, order: Ordering) -> $word {
                step();
                self.0.swap(word, order)
            }

            pub fn fetch_add(&self, by: $word, order: Ordering) -> $word {
                step();
                self.0.fetch_add(by, order)
            }

            pub fn fetch_sub(&self, by: $word, order: Ordering) -> $word {
                step();
                self.0.fetch_sub(by, order)
            }

            pub fn compare_exchange(
                &self,
                old: $word,
                new: $word,
                done: Ordering,
                failed: Ordering,
            ) -> Result<$word, $word> {
                step();
                self.0.compare_exchange(old, new, done, failed)
            }
        }
    };
}

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);

pub fn fence(order: Ordering) {
    step();
    atomic::fence(order);
}
