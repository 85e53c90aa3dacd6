//! The jail, from inside.
