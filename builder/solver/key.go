package solver

import "github.com/strake-build/strake/cache"

// key computes the key of v from its parts, which it keeps.
func (r *run[R]) key(v *Vertex[R]) (cache.Key, error) {
	var parts []cache.Part
	if v.Parent != nil {
		below, err := r.reference("parent", v.Parent)
		if err != nil {
			return cache.Key{}, err
		}
		parts = append(parts, below...)
	}
	for _, in := range v.Inputs {
		below, err := r.reference("input", in)
		if err != nil {
			return cache.Key{}, err
		}
		parts = append(parts, below...)
	}
	own, err := v.Op.Parts(r.ctx)
	if err != nil {
		return cache.Key{}, err
	}
	r.nodes[v].parts = append(parts, own...)
	return cache.NewKey(r.nodes[v].parts), nil
}

// reference names v in the key of a vertex that is made from it: by its key, or if it is a source by its parts, which tell
// more and have no record.
func (r *run[R]) reference(role string, v *Vertex[R]) ([]cache.Part, error) {
	k, err := r.nodes[v].key()
	if err != nil {
		return nil, err
	}
	if !v.Source {
		return []cache.Part{{Name: role, Value: k.String()}}, nil
	}
	var parts []cache.Part
	for _, p := range r.nodes[v].parts {
		p.Name = role + " " + p.Name
		parts = append(parts, p)
	}
	return parts, nil
}
