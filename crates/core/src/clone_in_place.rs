//! Cloning into a value that has its memory already.

/// Implements `Clone` field by field, [`clone_from`](Clone::clone_from) included, which the derive
/// leaves out. A model checker clones a machine for every step that it tries: most of the time would
/// go into asking for the same memory again.
///
/// `queues` are empty most of the time: then nothing is done. `shared` fields are `Arc`s. They are left alone where they are the same one already, so that two
/// threads do not fight over a count.
#[macro_export]
macro_rules! clone_in_place {
    ($name:ident $(<$($of:ident),+>)? { $($(#[$meta:meta])* $field:ident),+ $(,)?
        $(; queues $($queue:ident),+)? $(; shared $($shared:ident),+)? }) => {
        impl $(<$($of: Clone),+>)? Clone for $name $(<$($of),+>)? {
            fn clone(&self) -> Self {
                $name {
                    $($(#[$meta])* $field: self.$field.clone(),)+
                    $($($queue: self.$queue.clone(),)+)?
                    $($($shared: std::sync::Arc::clone(&self.$shared),)+)?
                }
            }

            fn clone_from(&mut self, source: &Self) {
                $($(#[$meta])* self.$field.clone_from(&source.$field);)+
                $($(
                    if !(self.$queue.is_empty() && source.$queue.is_empty()) {
                        self.$queue.clone_from(&source.$queue);
                    }
                )+)?
                $($(
                    if !std::sync::Arc::ptr_eq(&self.$shared, &source.$shared) {
                        self.$shared = std::sync::Arc::clone(&source.$shared);
                    }
                )+)?
            }
        }
    };
}
