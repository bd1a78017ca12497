"""The combined COCO+LVIS training set: rules, packing, reading; `training.data.build_coco_lvis` builds it."""
