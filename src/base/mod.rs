//! Ids, clock, atomic files, errors' small change.
