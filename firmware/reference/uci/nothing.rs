//! Nothing: these packages only tell cargo what to fetch, and what not.
