//! The macro that turns one table of settings into everything that names a setting.

/// Declares every setting once: the struct with its `Default`, and the static table `KEYS`, from
/// which parsing, problems and the printed files are derived.
///
/// A row is the doc comment (shown to users), name, type, default and, for types that need one,
/// the rule after `in`. Rows of the first block have no table in TOML. `as` gives the name within the
/// table where it has a level of its own, as in `sasl.user`.
macro_rules! settings {
    (
        $(#[$config_attribute:meta])*
        $Config:ident {
            $(
                $(#[doc = $top_doc:literal])+
                $top:ident: $top_type:ty = $top_default:expr $(, in $top_rule:expr)?;
            )*
        }
        $(
            $(#[doc = $table_doc:literal])+
            $table:ident: $Table:ident {
                $(
                    $(#[doc = $doc:literal])+
                    $field:ident $(as $name:literal)?: $type:ty = $default:expr
                        $(, in $rule:expr)?;
                )*
            }
        )*
    ) => {
        $(#[$config_attribute])*
        #[derive(Debug, Clone)]
        pub struct $Config {
            $($(#[doc = $top_doc])+ pub $top: $top_type,)*
            $($(#[doc = $table_doc])+ pub $table: $Table,)*
        }

        impl Default for $Config {
            fn default() -> Self {
                Self { $($top: $top_default,)* $($table: $Table::default(),)* }
            }
        }

        $(
            $(#[doc = $table_doc])+
            #[derive(Debug, Clone)]
            pub struct $Table {
                $($(#[doc = $doc])+ pub $field: $type,)*
            }

            impl Default for $Table {
                fn default() -> Self {
                    Self { $($field: $default,)* }
                }
            }
        )*

        /// Every setting in the order of printing, in which the keys of a table are adjacent.
        pub(super) static KEYS: &[Key] = &[
            $(settings!(
                @key stringify!($top), concat!($($top_doc),+), $top_type, [$top] $(, $top_rule)?
            ),)*
            $($(settings!(
                @key concat!(stringify!($table), ".", settings!(@name $field $($name)?)),
                concat!($($doc),+), $type, [$table.$field] $(, $rule)?
            ),)*)*
        ];
    };
    (@key $name:expr, $doc:expr, $type:ty, [$($place:tt)+] $(, $rule:expr)?) => {
        Key {
            name: $name,
            doc: $doc,
            assign: |config, input| assign(&mut config.$($place)+, input, &settings!(@rule $($rule)?)),
            show: |config| Setting::show(&config.$($place)+),
            must_be: || <$type as Setting>::must_be(&settings!(@rule $($rule)?)),
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $name:literal) => { $name };
    (@rule) => { () };
    (@rule $rule:expr) => { $rule };
}

pub(super) use settings;
