package program

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageError is wrong usage: of a flag or an argument.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// Usage marks an error as wrong usage, with exit status 2; nil stays nil.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

// Usagef returns an error of wrong usage.
func Usagef(format string, args ...any) error { return Usage(fmt.Errorf(format, args...)) }

// flagError says what is wrong with a flag.
func flagError(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var value *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		name := "--" + unknown.GetSpecifiedName()
		if in := unknown.GetSpecifiedShortnames(); in != "" {
			name = "-" + unknown.GetSpecifiedName()
		}
		return Usagef("%s: %q has no such flag", name, c.CommandPath())
	case errors.As(err, &value):
		return Usagef("--%s %q: %s", value.GetFlag().Name, value.GetValue(), want(value))
	}
	return Usage(err)
}

// want says which values a flag takes.
func want(e *pflag.InvalidValueError) string {
	switch e.GetFlag().Value.Type() {
	case "int", "int32", "int64", "uint", "uint64", "intSlice":
		return "want a number"
	case "float64":
		return "want a number such as 0.5"
	case "bool":
		return "want true or false"
	case "duration":
		return "want a duration such as 30s or 2m"
	}
	return e.Unwrap().Error()
}

// Args checks arguments by their names: "FILE" must be given, "[NAME]" may be, "COMMAND…" stands
// for any number, one at least.
func Args(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		for i, name := range names {
			if i >= len(args) && !strings.HasPrefix(name, "[") {
				return fmt.Errorf("%s is missing: want %q", strings.TrimSuffix(name, "…"), c.CommandPath()+" "+strings.Join(names, " "))
			}
			if strings.Contains(name, "…") {
				return nil
			}
		}
		if len(args) <= len(names) {
			return nil
		}
		if len(names) == 0 {
			return fmt.Errorf("%q takes no arguments, and got %q", c.CommandPath(), args)
		}
		return fmt.Errorf("%q is one argument too many: want %q", args[len(names)], c.CommandPath()+" "+strings.Join(names, " "))
	}
}
