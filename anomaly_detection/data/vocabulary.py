"""Words in the names of folders and files, and what they say: of an image, of how it was taken, of where it belongs, of whose it is."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What an image shows. Beside one folder of such a name the others say it, too, by names that nobody can list: `PNEUMONIA` beside `NORMAL`
KINDS = _words("normal abnormal anomaly anomalies anomalous healthy benign malignant positive negative control controls patients yes no notumor")

# How it was taken: sequence, plane, projection, phase, modality
VIEWS = _words(
    "t1 t1w t1c t1ce t1gd t2 t2w t2s t2star flair pd pdw dwi adc swi dti asl bold fmri mra mprage tof stir tse fse gre epi "
    "ax axial tra transverse transversal cor coronal sag sagittal ap pa lat lateral frontal oblique cc mlo left right "
    "arterial venous portal delayed native contrast pre post ct cta mr mri pet pt nm mg cr dx rf spect us xr xray cxr"
)

# Parts of a dataset; NUMBERED are so with a number, too, while `train_12` may be the twelfth patient
PARTS = _words("batch batches chunk shard fold subset split train training val valid validation test testing")
NUMBERED = _words("batch chunk shard fold subset split")

# What may hold several patients, or be one's
GROUPS = _words("site center centre hospital clinic scanner visit session ses sess timepoint tp part images imgs imagestr imagests group")

PERSON = _words("pat patient pt sub subj subject case person pid participant")

# What slices, series and studies are called, alike in all patients; `pt` is PET and a patient
GENERIC = (VIEWS - PERSON) | _words(
    "slice slices sl image images img imgs im frame fr series serie ser se sr srs scan scans study stu st exam session ses sess visit date time "
    "timepoint tp acq run rep phase echo te ti tr dir vol volume view tile patch crop page plane dicom dcm dsc roi lesion nodule tumor tumour "
    "part seg mask label level stack seq sequence pic picture photo file files data screenshot capture export layer depth channel bval xr cr dx "
    "mg head brain lung chest liver abdomen heart knee breast kidney spine hand eye normal abnormal anomaly day month week year baseline followup"
)
