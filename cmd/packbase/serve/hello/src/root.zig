/// What packbase says to those who try it.
pub const greeting = "hello from packbase";
