package policy

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	rulesv1 "weir.dev/api/gen/weir/rules/v1"
	"weir.dev/policy/v1alpha1"
)

// consumers compiles the Consumers. A key that two of them hold is taken from
// the later one.
func (r *resolver) consumers() []*rulesv1.Consumer {
	var consumers []*rulesv1.Consumer
	owner, signers := map[string]*Object{}, map[string]*Object{}
	for _, consumer := range ofType[*v1alpha1.Consumer](r) {
		spec := &consumer.value.Spec
		message := &rulesv1.Consumer{Name: consumer.object.Ref.Namespace + "/" + consumer.object.Ref.Name, Tenant: spec.Tenant, Tier: spec.Tier, Attributes: spec.Attributes}
		for i, key := range spec.APIKeys {
			if first, ok := owner[key.SHA256]; ok {
				r.report(consumer.object.problem(CodeDuplicateKey, fmt.Sprintf("spec.apiKeys[%d].sha256", i),
					fmt.Sprintf("is also a key of %s, which keeps it", first.Ref)))
				continue
			}
			owner[key.SHA256] = consumer.object
			sum, err := hex.DecodeString(key.SHA256)
			if err != nil { // validated before
				continue
			}
			compiled := &rulesv1.ApiKey{Name: key.Name, Sha256: sum, Scopes: key.Scopes}
			if key.ExpireTime != nil {
				compiled.ExpireTime = timestamppb.New(key.ExpireTime.Time)
			}
			message.ApiKeys = append(message.ApiKeys, compiled)
		}
		for _, subject := range spec.TokenSubjects {
			message.TokenSubjects = append(message.TokenSubjects, &rulesv1.TokenSubject{Issuer: subject.Issuer, Subject: subject.Subject})
		}
		message.SignatureKeys = r.signatureKeys(consumer.object, spec.SignatureKeys, signers)
		consumers = append(consumers, message)
	}
	slices.SortFunc(consumers, func(a, b *rulesv1.Consumer) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return consumers
}
