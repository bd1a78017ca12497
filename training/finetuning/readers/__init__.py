"""What teams have annotated, as photos with label maps: exports of COCO, CVAT and Label Studio, folders of masks."""
