//! Offers as real clients write them, and offers that must be refused.
