package selector

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// FromKubernetes is a selector of Kubernetes' API; at names its field in errors. Of nil it is
// nil, which is no condition: what a field that is not there means, its type says.
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
