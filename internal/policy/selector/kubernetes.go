package selector

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// FromKubernetes converts a selector of the Kubernetes API. at is the name of its field in
// errors. nil gives nil, which is no condition: the type of the field defines what a missing
// selector means.
func FromKubernetes(ls *metav1.LabelSelector, at string) (*Selector, error) {
	if ls == nil {
		return nil, nil
	}
	if errs := validation.ValidateLabelSelector(ls, validation.LabelSelectorValidationOptions{}, field.NewPath(at)); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	var of []*Selector
	for key, value := range ls.MatchLabels {
		of = append(of, In(key, value))
	}
	for _, e := range ls.MatchExpressions {
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			of = append(of, In(e.Key, e.Values...))
		case metav1.LabelSelectorOpNotIn:
			of = append(of, Not(In(e.Key, e.Values...)))
		case metav1.LabelSelectorOpExists:
			of = append(of, Has(e.Key))
		case metav1.LabelSelectorOpDoesNotExist:
			of = append(of, Not(Has(e.Key)))
		default: // validated above
			return nil, fmt.Errorf("%s.matchExpressions: operator %q: want In, NotIn, Exists or DoesNotExist", at, e.Operator)
		}
	}
	return And(of...), nil
}
