"""What teams have annotated, as images with label maps: exports of COCO, CVAT and Label Studio, folders of masks."""
