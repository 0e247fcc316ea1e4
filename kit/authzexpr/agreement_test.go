package authzexpr_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
)

// Every field of the message that documents the environment, and that decision
// records keep, is one that expressions can read, by its name.
func TestTheEnvironmentIsTheMessage(t *testing.T) {
	env := newEnvironment(t)
	variables := (&rulesv1.AuthzInput{}).ProtoReflect().Descriptor().Fields()
	count := 0
	for i := range variables.Len() {
		variable := variables.Get(i)
		if name := string(variable.Name()); name == "time" || name == "metadata" {
			_, err := env.Compile(name + " == " + name)
			require.NoError(t, err)
			continue
		}
		fields := variable.Message().Fields()
		for j := range fields.Len() {
			expression := fmt.Sprintf("%[1]s.%[2]s == %[1]s.%[2]s", variable.Name(), fields.Get(j).Name())
			_, err := env.Compile(expression)
			require.NoError(t, err, expression)
			count++
		}
	}
	for _, fields := range env.Fields() {
		count -= fields
	}
	require.Zero(t, count, "the environment has fields that the message does not")
}
