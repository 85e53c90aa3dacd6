//! What the engine needs done inside a microVM.
#![no_std]
