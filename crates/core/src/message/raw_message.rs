//! One message of a body, before anybody has understood it.

/// One element of a body.
#[derive(Clone, Copy, Debug)]
pub struct RawMessage<'a> {
    pub text: &'a str,
    /// Place in the batch, from 1; where a call has several bodies, counted through all of them.
    pub position: i32,
}

impl<'a> RawMessage<'a> {
    /// A message that was taken out of its batch before.
    pub fn alone(text: &'a str) -> Self {
        Self { text, position: 1 }
    }
}
